"""Scraping: who is asked for metrics, how, and what becomes of the answer."""
