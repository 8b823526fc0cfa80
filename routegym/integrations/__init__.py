"""routegym in other people's trainers: adapters that need their packages, each imported where it is used."""
