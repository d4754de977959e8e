"""What a run has done, as a page for people: one file that needs nothing else.

`gathered` finds what is known of the run and its slides, `numbers` counts what is stored,
`pictures` draws it, `sections` puts together what is said of a slide, `pages` makes HTML of it,
and `writing` the files. Of a slide whose store has not changed what was drawn before is kept.
"""

from pipeline.report.writing import ON_ONE_PAGE, REPORT, Written, write_report

__all__ = ["ON_ONE_PAGE", "REPORT", "Written", "write_report"]
