"""What a person runs to see what abatch survives; not collected by pytest. See __main__.py."""
