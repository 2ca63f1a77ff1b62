"""What setup.cfg cannot say: the long description of a package index, which is README.md without pictures and local links.

A package index shows neither files of the checkout nor links to them, and this project has no public address that they could
be given by. Everything else is in setup.cfg.
"""

import re
from pathlib import Path


def long_description() -> str:
    """README.md with the words of links to files in their place, and without pictures."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[[^\]]*\]\([^)]*\)\n+", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)\s]*\)", r"\1", text)


if __name__ == "__main__":
    from setuptools import setup

    setup(long_description=long_description())
