package server

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgbak/pgbak/internal/postgres"
)

// TestNothingIsReportedBeforeTheServerHasSentAnything is about slots: a server that is told of a position takes it for
// the slot's, back as well, before it looks whether it has the WAL from there on.
func TestNothingIsReportedBeforeTheServerHasSentAnything(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	config, err := pgconn.ParseConfig("host=localhost")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgconn.Construct(&pgconn.HijackedConn{Conn: ours, Frontend: pgproto3.NewFrontend(ours, ours), TxStatus: 'I', Config: config})
	if err != nil {
		t.Fatal(err)
	}
	backend := pgproto3.NewBackend(theirs, theirs)
	type status struct {
		flushed     uint64
		replyWanted bool
	}
	statuses := make(chan status, 3)
	go func() {
		defer close(statuses)
		for n := 0; ; {
			m, err := backend.Receive()
			if err != nil {
				return
			}
			switch m := m.(type) {
			case *pgproto3.Query:
				backend.Send(&pgproto3.CopyBothResponse{})
			case *pgproto3.CopyData:
				statuses <- status{binary.BigEndian.Uint64(m.Data[9:]), m.Data[33] == 1}
				if n++; n != 2 {
					continue
				}
				alive := append([]byte{tagKeepalive}, make([]byte, keepaliveSize-1)...)
				backend.Send(&pgproto3.CopyData{Data: alive})
			}
			if backend.Flush() != nil {
				return
			}
		}
	}()
	s, _, err := (&ReplicationConn{conn: conn}).StreamWAL(t.Context(), "slot", 1, 0x100000)
	if err != nil {
		t.Fatal(err)
	}
	report := func() status {
		if err := s.Report(postgres.LSN(0x100000), time.Now(), false); err != nil {
			t.Fatal(err)
		}
		return <-statuses
	}
	for range 2 {
		if got := report(); got != (status{0, true}) {
			t.Errorf("before the server has sent anything it is told %+v", got)
		}
	}
	if m, err := s.Receive(); err != nil || !m.ReplyWanted {
		t.Errorf("the first message is %+v, %v: it asks for no report", m, err)
	}
	if got := report(); got != (status{0x100000, false}) {
		t.Errorf("afterwards the server is told %+v", got)
	}
}
