"""What command lines and configs call the data sets that runs train on."""

COVID_SEMISEG, PHANTOM = "covid_semiseg", "phantom"
COVID_CT_20, PHANTOM_VOLUMES = "covid-ct-20", "phantom-volumes"
# The user's own: pictures, and volumes.
OWN, OWN_VOLUMES = "own", "own-volumes"
