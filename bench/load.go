package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a client waits for the end of an answer.
const patience = time.Minute

// result is what a turn has shown.
type result struct {
	requests      int             // that ended within the measured time
	took          []time.Duration // each of them; where chunks come alone, the age of each chunk
	before, after spent           // the target's process
}

// The phases of a turn. Only what ends while it is measured counts.
const (
	warming int32 = iota
	measuring
	over
)

// run is a turn under way, as its clients share it.
type run struct {
	w      *workload
	t      *target
	phase  atomic.Int32
	ended  atomic.Int64 // requests, while measuring
	failed chan error   // has room for every client
}

// load keeps the workload's connections busy with requests to the target: for the time warm, then
// for the measured time d, which goes on until one request has ended.
func load(w *workload, t *target, warm, d time.Duration) (result, error) {
	r := &run{w: w, t: t, failed: make(chan error, w.conns)}
	clients := make([]client, w.conns)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			time.Sleep(w.ramp * time.Duration(i) / time.Duration(w.conns))
			if err := clients[i].work(r); err != nil {
				r.failed <- err
			}
		})
	}
	res, err := r.measure(w.ramp+warm, d)
	r.phase.Store(over)
	wg.Wait()
	close(r.failed)
	if err == nil {
		err = <-r.failed // nil if none has
	}
	for i := range clients {
		res.took = append(res.took, clients[i].took...)
	}
	return res, err
}

// measure steers the clients through the phases. It returns early when one of them fails.
func (r *run) measure(warm, d time.Duration) (res result, err error) {
	if err := r.wait(warm); err != nil {
		return res, err
	}
	if res.before, err = r.t.process.spent(); err != nil {
		return res, err
	}
	r.phase.Store(measuring)
	err = r.wait(d)
	for err == nil && r.ended.Load() == 0 {
		err = r.wait(time.Millisecond)
	}
	if err != nil {
		return res, err
	}
	r.phase.Store(over)
	res.requests = int(r.ended.Load())
	res.after, err = r.t.process.spent()
	return res, err
}

func (r *run) wait(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-r.failed:
		return err
	}
}

// client is one keep-alive connection.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
	body    []byte // of the answer
	took    []time.Duration
}

// work sends one request after the other until the turn is over.
func (c *client) work(r *run) error {
	var err error
	if c.conn, err = net.Dial("tcp", r.t.process.addr); err != nil {
		return err
	}
	defer c.conn.Close()
	c.r = bufio.NewReader(c.conn)
	body := r.w.request(r.t.model)
	c.request = append(head(r.w.path, r.t.process.addr, len(body)), body...)
	for n := 0; r.phase.Load() != over; n++ {
		began := time.Now()
		status, err := c.exchange(r)
		if err != nil {
			return err
		}
		// To compare every answer would take more time than to make it.
		if n%16 == 0 || status != http.StatusOK {
			if err := r.t.check(c.body); err != nil {
				return fmt.Errorf("wrong answer, status %d: %w: %.400q", status, err, c.body)
			}
		}
		if r.phase.Load() == measuring {
			r.ended.Add(1)
			if r.w.gap == 0 {
				c.took = append(c.took, time.Since(began))
			}
		}
	}
	return nil
}

// exchange sends the request and reads the answer.
func (c *client) exchange(r *run) (status int, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	c.body = c.body[:0]
	for {
		c.body = slices.Grow(c.body, 4<<10)
		at := len(c.body)
		n, err := res.Body.Read(c.body[at:cap(c.body)])
		c.body = c.body[:at+n]
		if r.w.gap > 0 && r.phase.Load() == measuring {
			c.age(c.body[at:])
		}
		if err == io.EOF {
			return res.StatusCode, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// age notes how old each chunk in b is by the time that the upstream wrote into it. A time that is
// cut is left out.
func (c *client) age(b []byte) {
	now := time.Now().UnixNano()
	for {
		_, after, found := bytes.Cut(b, []byte("@"))
		if !found || len(after) < stampLen {
			return
		}
		if t, err := strconv.ParseInt(string(after[:stampLen]), 10, 64); err == nil {
			c.took = append(c.took, time.Duration(now-t))
		}
		b = after
	}
}

// head renders the head of a request as the official clients send it.
func head(path, host string, length int) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\n"+
		"Host: %s\r\n"+
		"User-Agent: bench\r\n"+
		"Accept: */*\r\n"+
		"Content-Type: application/json\r\n"+
		"Authorization: Bearer %s\r\n"+
		"Anthropic-Version: 2023-06-01\r\n"+
		"X-Stainless-Lang: js\r\n"+
		"X-Stainless-Package-Version: 6.1.0\r\n"+
		"X-Stainless-Os: Linux\r\n"+
		"X-Stainless-Arch: x64\r\n"+
		"X-Stainless-Runtime: node\r\n"+
		"X-Stainless-Runtime-Version: v22.1.0\r\n"+
		"X-Stainless-Retry-Count: 0\r\n"+
		"X-Stainless-Timeout: 600\r\n"+
		"Accept-Language: *\r\n"+
		"Sec-Fetch-Mode: cors\r\n"+
		"Accept-Encoding: gzip, deflate\r\n"+
		"Content-Length: %d\r\n\r\n", path, host, token, length)
}
