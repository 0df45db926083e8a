"""Attribution methods: one file per kind."""
