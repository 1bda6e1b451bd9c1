"""What people look at: a run as one JSON value, and the page that draws it, live or as a report in one file."""

from asyncopt.pages.comparing import comparison
from asyncopt.pages.document import document
from asyncopt.pages.report import report_html

__all__ = ["comparison", "document", "report_html"]
