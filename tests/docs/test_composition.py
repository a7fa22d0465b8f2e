from tests.docs.composition import PAGE, page


def test_the_composition_page_says_what_the_code_does():
    assert PAGE.read_text() == page(), "run: python -m tests.docs.composition"
