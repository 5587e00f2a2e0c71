"""What is wrong with a file, as values (`diagnostic`, `source`, `codes`), and as text (`render/`).

Every room raises its mistakes as one `Rejected`, which carries frozen `Diagnostic`s with labels
that point into `Source`s; `render` makes one string of them. Nothing here prints or reads a file.
"""
