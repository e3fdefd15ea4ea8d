"""Kernel ridge regression: the verbs, the factors of a kernel matrix, and what does without one."""
