"""Answers from several runs: which setting is the better one, and is the difference more than noise?"""
