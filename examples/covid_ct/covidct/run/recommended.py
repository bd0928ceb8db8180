"""Which method train.py takes for images of the user's own, where none is asked for."""


def recommended(labelled: int, *, unlabelled: bool, source: bool, slices: bool) -> tuple[str, str]:
    """The method, and one line that says what was taken and why.

    labelled: images with masks. unlabelled, source: whether there are such images. slices: pictures, not volumes.

    What was tried so far (docs: When it helps) favours what unlabelled pictures teach one network. Of other images the
    relation losses need no labels: where there are such, the paper's method takes them.
    """
    few = f"{labelled} labelled {'picture' if slices else 'volume'}{'' if labelled == 1 else 's'}"
    if unlabelled and slices:
        return "self-taught", f"{few} and unlabelled pictures: method self-taught, one network that learns from both"
    if source:
        return "ours", f"{few} and source images: method ours, whose relation losses take these without labels"
    if unlabelled:
        return "ours", f"{few} and unlabelled images: method ours, which takes these in the place of source images"
    return "unet", f"{few}, no source or unlabelled images: method unet, one network and its labels"
