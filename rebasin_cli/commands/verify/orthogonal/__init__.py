"""`rebasin verify --symmetry orthogonal`: is a model a rotated copy of another?"""
