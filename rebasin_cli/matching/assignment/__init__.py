"""Exact assignments: of one group, of groups inside groups, of small groups by enumeration."""
