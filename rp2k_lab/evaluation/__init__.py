"""From a network's predictions to metrics, tables, figures and the closing table."""
