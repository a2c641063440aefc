"""Strings that would be markup or script, as names of files and in metadata: all show as text."""

import pytest

from tests.browser.front_end import FrontEnd
from tests.reliability.xss import shown_as_text


@pytest.mark.one_look
def test_a_few_of_the_strings_show_as_text(page_of_look: FrontEnd):
    assert shown_as_text(page_of_look, page_of_look.server, 60) == []
