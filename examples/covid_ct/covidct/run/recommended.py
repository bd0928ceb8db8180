"""Which method train.py takes for images of the user's own, where none is asked for."""


def recommended(labelled: int, *, unlabelled: bool, source: bool, slices: bool) -> tuple[str, str]:
    """The method, and one line that says what was taken and why.

    labelled: images with masks. unlabelled, source: whether there are such images. slices: pictures, not volumes.

    The relation losses need no labels: where there are images for them, the paper's method takes them.
    """
    few = f"{labelled} labelled {'picture' if slices else 'volume'}{'' if labelled == 1 else 's'}"
    if source and unlabelled and slices:
        return "ours-un", f"{few}, source and unlabelled images: method ours-un, whose relation losses take both"
    if source:
        return "ours", f"{few} and source images: method ours, whose relation losses take these without labels"
    if unlabelled:
        return "ours", f"{few} and unlabelled images: method ours, which takes these in the place of source images"
    return "unet", f"{few}, no source or unlabelled images: method unet, one network and its labels"
