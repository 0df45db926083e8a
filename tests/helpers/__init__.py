"""What tests share: oracles, replicas of published files, cheats, synthetic records."""
