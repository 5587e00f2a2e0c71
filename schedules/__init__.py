"""The schedules that ship. No Python."""
