"""The results of runs as one HTML page that needs nothing but a browser."""

from routegym.evaluation.page.content import Section
from routegym.evaluation.page.render import report_page

__all__ = ["Section", "report_page"]
