-- migrate:up

-- The most that answers by models may cost a user a day, in millionths of the unit of the router's currency. Null: no
-- budget.
ALTER TABLE entitlements.plans
    ADD COLUMN daily_model_budget_micros bigint
        CHECK (daily_model_budget_micros BETWEEN 0 AND 1000000000000000);

-- migrate:down
