"""What a run is: options, profiles, folder, tables, record, and what its chapters share."""
