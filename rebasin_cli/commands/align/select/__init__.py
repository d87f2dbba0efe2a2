"""`rebasin align --select N`: of several alignments the one whose midpoint loses least on data."""
