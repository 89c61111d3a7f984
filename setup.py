"""The URLs of the project, from the one environment variable REPOSITORY_URL; all else is in pyproject.toml."""

import os

from setuptools import setup

url = os.environ.get("REPOSITORY_URL", "").rstrip("/")
pages = {"Repository": "", "Issues": "/issues", "Changelog": "/blob/main/CHANGELOG.md"}
setup(project_urls={name: url + page for name, page in pages.items()} if url else {})
