"""Real clients against a real node: every test starts `sofs quickstart` as a user would."""
