-- Ids and counts are read with every list: they are in an index table of narrow
-- rows. The text is in a table of its own. Times are microseconds in UTC.

CREATE TABLE subjects (
    id TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL,
    comment_count BIGINT NOT NULL DEFAULT 0,
    create_time BIGINT NOT NULL
);

CREATE TABLE comment_index (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject_id TEXT NOT NULL REFERENCES subjects (id),
    author TEXT NOT NULL,
    -- 0 if the comment is no reply: an index finds 0, and not every NULL.
    reply_to BIGINT NOT NULL DEFAULT 0,
    request_id TEXT,
    like_count BIGINT NOT NULL DEFAULT 0,
    reply_count BIGINT NOT NULL DEFAULT 0,
    version BIGINT NOT NULL DEFAULT 1,
    create_time BIGINT NOT NULL,
    update_time BIGINT NOT NULL,
    delete_time BIGINT
);

-- The two orders of lists.
CREATE INDEX comments_by_time
    ON comment_index (subject_id, reply_to, create_time, id)
    WHERE delete_time IS NULL;
CREATE INDEX comments_by_likes
    ON comment_index (subject_id, reply_to, like_count, id)
    WHERE delete_time IS NULL;

-- A retry creates no second comment.
CREATE UNIQUE INDEX comments_by_request
    ON comment_index (subject_id, author, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE comment_content (
    comment_id BIGINT PRIMARY KEY NOT NULL REFERENCES comment_index (id),
    text TEXT NOT NULL,
    -- All three, or none.
    place_label TEXT,
    place_latitude DOUBLE PRECISION,
    place_longitude DOUBLE PRECISION,
    -- A JSON object of strings.
    labels TEXT NOT NULL
);

CREATE TABLE likes (
    comment_id BIGINT NOT NULL REFERENCES comment_index (id),
    user_id TEXT NOT NULL,
    PRIMARY KEY (comment_id, user_id)
);
