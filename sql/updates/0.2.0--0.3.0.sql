-- From 0.2.0 to 0.3.0: no type or table has changed yet.

-- @functions

-- @views
