"""What may be done to units beside permuting them: which classes of maps the operators allow."""
