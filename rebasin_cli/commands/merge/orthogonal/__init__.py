"""`rebasin merge --symmetry orthogonal`: models folded and rotated before they are averaged."""
