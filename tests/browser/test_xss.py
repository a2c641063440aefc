"""Strings that would be markup or script, as names of files and in metadata: all show as text."""

from tests.browser.front_end import FrontEnd
from tests.hosting.server import ComfyServer
from tests.reliability.xss import shown_as_text


def test_a_few_of_the_strings_show_as_text(front_end: FrontEnd, server: ComfyServer):
    assert shown_as_text(front_end, server, 60) == []
