-- From 0.2.0 to 0.3.0: the inbox is new. build.rs puts what a file of sql/inbox creates once in the place of @create.

-- @create sql/inbox/tables.sql
-- @create sql/inbox/receive.sql

-- @create sql/inbox/peek.sql

-- @functions

-- @create sql/inbox/consumers.sql

-- @create sql/inbox/handlers.sql

-- @views
