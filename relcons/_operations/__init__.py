"""What relations are made of, with backward passes written by hand: fewer maps kept, full precision under autocast.

Autocast casts products in a backward pass that runs inside it, too, whatever the forward pass did; so these turn it off
in both. Callers turn it off around them.
"""

from relcons._operations.grams import centered, gram_of_each, gram_of_mean
from relcons._operations.pooling import pooled
from relcons._operations.precision import accumulation_dtype
from relcons._operations.rows import unit_rows

__all__ = ["accumulation_dtype", "centered", "gram_of_each", "gram_of_mean", "pooled", "unit_rows"]
