"""Stillhouse's API: takes orders and hands out results. It runs without torch."""
