"""What all measurements share: settings, questions, kept records, tables and plots."""
