"""Data only: methods, failures, compounds and operator declarations as YAML. `gradaxis.taxonomy` reads them."""
