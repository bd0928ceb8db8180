"""Relation matrices of feature maps and the distances between them: pure tensor maths, the home of every formula."""

from relcons.functional.consistency import REDUCTIONS as REDUCTIONS
from relcons.functional.consistency import Reduction as Reduction
from relcons.functional.consistency import Relation as Relation
from relcons.functional.consistency import (
    anchored_consistency,
    general_consistency,
    relation_consistency,
    relation_distance,
    target_consistency,
)
from relcons.functional.consistency import relation_difference as relation_difference
from relcons.functional.matrices import BATCHES as BATCHES
from relcons.functional.matrices import Batch as Batch
from relcons.functional.matrices import (
    effective_rank,
    gram_matrix,
    relation_matrix,
    sample_relation,
    spatial_relation,
)

__all__ = [
    "anchored_consistency",
    "effective_rank",
    "general_consistency",
    "gram_matrix",
    "relation_consistency",
    "relation_distance",
    "relation_matrix",
    "sample_relation",
    "spatial_relation",
    "target_consistency",
]
