-- From 0.2.0 to 0.3.0: the inbox is new. build.rs puts what a file of sql/inbox creates once in the place of @create.

-- @create sql/inbox/tables.sql

-- @functions

-- @create sql/inbox/consumers.sql

-- @views
