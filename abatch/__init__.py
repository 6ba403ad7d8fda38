"""abatch: nightly batch machine learning on tables in SQL. See README.md."""

__version__ = "0.1.0"
