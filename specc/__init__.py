"""specc: a declarative graph compiler."""
