"""Stands in for Snakemake in the jobs of one test, which counts jobs by hundreds."""
