"""The report of a comparison: from the run files of a folder to statistics, figures and one page.

The run files are all this package reads, so a report can be made on a laptop from runs made on a cluster.
"""
