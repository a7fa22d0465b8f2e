"""One symptom a file: each looks at a run's record and says what it found, if anything."""
