"""The evaluation of restored pictures and clips against their truth, and its report."""
