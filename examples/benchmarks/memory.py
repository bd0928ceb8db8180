"""Peak memory of a call, beyond what was there before it."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: str = "cpu", larger_than: int = 0) -> int:
    """Largest number of bytes that torch's allocator held at once for `call`, what it returns included.

    CPU: every allocation and release that the profiler records, added up in order of time; scratch memory that the
    BLAS library takes for itself is not torch's and is not seen. Only allocations of more than `larger_than` bytes
    count. CUDA: the caching allocator's own peak, of allocations of any size.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if abs(event.nbytes()) > larger_than:
            total += event.nbytes()
            peak = max(peak, total)
    return peak
