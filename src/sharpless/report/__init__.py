"""The report of a comparison: from the run files of a folder to statistics, figures and one page.

This package reads only run files, so a laptop can make the report for runs of a cluster.
"""
