"""Helpers that every room may use and that know no other room: provenance, tables, randomness."""
