"""The four labels of the codebook. They are nominal: their order is only a column order."""

NONE = "none"
STANCES = ("optimistic", "obstructive", "conciliatory")
LABELS = (NONE, *STANCES)
ABSTAINED = "abstained"  # an answer, never a label of data

HOLDERS = (
    "russia",
    "ukraine",
    "united_states",
    "europe",
    "mediator",
    "joint",
    "author",
    "other",
    "party",
    "unspecified",
)
CERTAINTIES = ("stated", "alleged", "inferred", "conditional")
SPLITS = ("train", "validation", "test")


def is_stance_set(classes: tuple[str, ...]) -> bool:
    """Whether a label set is the codebook's four, so that stance measures make sense."""
    return set(classes) == set(LABELS)
