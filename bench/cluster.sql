-- The half of the benchmark's cluster that is not pgbench; cluster.sh says why it looks like this. Variable: scale.
-- One transaction, so that with wal_level=minimal the rows need no WAL.
BEGIN;
SET LOCAL max_parallel_maintenance_workers = 4;
CREATE FUNCTION pg_temp.number(text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$ SELECT ('x' || substr($1, 1, 8))::bit(32)::bigint $$;

-- Word number b, from 0 to 255, of a language of 84 words in which the first ones are the most frequent.
CREATE FUNCTION pg_temp.word(b integer) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$ SELECT ('{the,order,was,sent,to,customer,after,payment,had,been,received,and,a,parcel,left,our,store,late,because,weather,delayed,every,truck,on,that,road,invoice,number,is,missing,please,call,again,tomorrow,morning,support,team,will,answer,soon,refund,goes,back,same,account,within,seven,days,status,changed,from,open,waiting,closed,by,system,user,admin,note,item,returned,damaged,box,label,printed,twice,blue,chair,cable,lamp,small,large,red,address,wrong,new,phone,email,asked,for,help,with,return,form}'::text[])[1 + (b * b * 84) / 65536] $$;

CREATE TEMPORARY TABLE language AS SELECT array_agg(pg_temp.word(b) ORDER BY b) AS w FROM generate_series(0, 255) b;

CREATE TABLE events AS
	SELECT n AS id,
		h::uuid AS key,
		timestamptz '2026-01-01 00:00:00+00' + n * interval '7 seconds' + (r % 7000) * interval '1 millisecond' AS happened,
		(r % 200003)::integer AS customer,
		(ARRAY['created', 'paid', 'packed', 'sent', 'delivered', 'returned', 'refunded', 'closed'])[1 + r % 8] AS kind,
		jsonb_build_object('amount', round((r % 1000000) / 100.0, 2), 'address', concat_ws('.', 10, r % 256, (r / 256) % 256, (r / 65536) % 256),
			'session', substr(h, 9, 16), 'items', jsonb_build_array(r % 9973, (r / 7) % 9973, (r / 49) % 9973), 'mobile', r % 3 = 0) AS payload,
		left(concat_ws(' ', w[1 + get_byte(b, 0)], w[1 + get_byte(b, 1)], w[1 + get_byte(b, 2)], w[1 + get_byte(b, 3)],
			w[1 + get_byte(b, 4)], w[1 + get_byte(b, 5)], w[1 + get_byte(b, 6)], w[1 + get_byte(b, 7)],
			w[1 + get_byte(b, 8)], w[1 + get_byte(b, 9)], w[1 + get_byte(b, 10)], w[1 + get_byte(b, 11)],
			w[1 + get_byte(b, 12)], w[1 + get_byte(b, 13)], w[1 + get_byte(b, 14)], w[1 + get_byte(b, 15)],
			w[1 + get_byte(b, 16)], w[1 + get_byte(b, 17)], w[1 + get_byte(b, 18)], w[1 + get_byte(b, 19)],
			w[1 + get_byte(b, 20)], w[1 + get_byte(b, 21)], w[1 + get_byte(b, 22)], w[1 + get_byte(b, 23)],
			w[1 + get_byte(b, 24)], w[1 + get_byte(b, 25)], w[1 + get_byte(b, 26)], w[1 + get_byte(b, 27)],
			w[1 + get_byte(b, 28)], w[1 + get_byte(b, 29)], w[1 + get_byte(b, 30)], w[1 + get_byte(b, 31)]), (60 + r % 150)::integer) AS note,
		md5(h) AS token
	FROM language, (SELECT n, md5('event' || n) AS h, pg_temp.number(md5('event' || n)) AS r,
		decode(md5('note' || n) || md5('text' || n), 'hex') AS b FROM generate_series(1, :scale::bigint * 23000) n OFFSET 0) x;
ALTER TABLE events ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX ON events (key);
CREATE INDEX ON events (customer, happened);
CREATE INDEX ON events (token);
CREATE INDEX ON events (kind, happened);
COMMIT;
VACUUM (FREEZE, ANALYZE) events;
CHECKPOINT;
