"""Self-contained reports: pages and charts without a network, a script or a picture file.

Knows no command: texts, figures and where to write come from the caller. Every text is escaped.
"""

from arkinfer.report.charts import Bar, Series, bar_chart, line_chart
from arkinfer.report.files import check_place, write_page, write_text
from arkinfer.report.page import (
    Block,
    Code,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Table,
    Verdict,
    page,
)

__all__ = [
    "Bar",
    "Block",
    "Code",
    "Facts",
    "Figure",
    "Heading",
    "Paragraph",
    "Series",
    "Table",
    "Verdict",
    "bar_chart",
    "check_place",
    "line_chart",
    "page",
    "write_page",
    "write_text",
]
