-- migrate:up

-- An analysis may look back a hundred years: what clinics bring along is older than ten.
ALTER TABLE entitlements.plans
    DROP CONSTRAINT plans_analytics_window_days_check,
    ADD CONSTRAINT plans_analytics_window_days_check CHECK (analytics_window_days BETWEEN 1 AND 36500);

-- migrate:down
