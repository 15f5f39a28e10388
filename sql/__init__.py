"""The SQL of attrstore: numbered migrations, the views and macros that face the user, named statements."""
