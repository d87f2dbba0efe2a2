"""Outcomes shown: sentences and tables for people, events for programs, bars for the patient."""
