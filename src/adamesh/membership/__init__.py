"""Membership: who takes part."""
