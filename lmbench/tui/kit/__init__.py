"""What several features use: panels, dialogs, forms, tables, the terminal's driver."""
